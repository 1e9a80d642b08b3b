"""The demo: a page that shows which words of a caption the picture supports."""
