"""The gRPC port: a connection's life, its calls, its streams, and the services behind them."""
