"""Reading: scans over the API's lists, rows that fit their columns, and the public dlt source."""
