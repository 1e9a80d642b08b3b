"""What visitors see: the page, its tabs, and the HTML of everything on them."""
