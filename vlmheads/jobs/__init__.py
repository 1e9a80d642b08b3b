"""Captioning jobs: any number of images, stopped and gone on with at any point."""
