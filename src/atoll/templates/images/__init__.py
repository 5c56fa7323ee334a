"""Container images: from a registry or from disk to the layers of a template, and back."""
