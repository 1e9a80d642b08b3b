"""The browser page of vlmheads; it is not part of this release yet."""
