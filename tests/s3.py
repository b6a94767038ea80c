"""The S3 server of the tests."""
