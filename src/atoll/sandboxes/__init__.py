"""What a sandbox is: its model, life cycle, pool and deadlines. No HTTP, no Linux in here."""
