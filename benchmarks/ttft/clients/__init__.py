"""One file a client. Each keeps so many streams in flight and tells the TTFT and latency of each response."""
