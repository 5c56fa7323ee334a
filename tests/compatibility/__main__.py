"""Write docs/compatibility.md."""

from tests.compatibility.table import PAGE, render_page

PAGE.write_text(render_page())
