"""What is shown of tuned models and tuning runs: pages, pictures, and comparisons with engines.

`compare` times a tuned model in turns with other engines, `report` gathers what is measured and
recorded of one, `page` makes an HTML page of that (with `svg` and `style`), and `figure` draws
curves with matplotlib. It hands over values, HTML text and files.

It may use everything that makes and runs models, and knows nothing of the command line.
"""
