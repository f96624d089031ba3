"""A Vnet's HTTP port: metrics for Prometheus, signs of life for whoever restarts services, and a page for people.

    listener.py   HTTP/1.1 on a socket (h11 parses, asyncio carries), who may ask, limits
    pages.py      what there is to ask for
    metrics.py    health records and counters as Prometheus and OpenMetrics spell them
    live.py       the overlay as JSON, whole and then as it changes, for the page
    page.html     the page: one file, no build, no other host asked for anything

Off unless `http = "127.0.0.1:9464"` stands in the configuration; nothing here is imported before.
"""
