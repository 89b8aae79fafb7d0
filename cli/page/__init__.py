"""A report as one self-contained page: no network, no script; `document.render`."""
