"""Input rows to payloads: columns mapped, cells read, rows checked, rejects written."""

# How the API is to treat a write, not what the prospect is: two payloads that differ in these
# alone say the same. Here, since pulls compare too, and need nothing else of this package.
MANNERS = frozenset({"update", "muteWebhook"})
