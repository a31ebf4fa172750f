"""What the tests of pushes share: a push from rows to outcomes, against any server."""
