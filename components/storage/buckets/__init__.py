"""Object stores: a folder, or a bucket in S3."""
