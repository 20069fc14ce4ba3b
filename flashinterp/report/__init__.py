"""Tables, charts, Markdown and HTML: plain data in, text out."""
