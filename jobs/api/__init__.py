"""The clients' doors."""
