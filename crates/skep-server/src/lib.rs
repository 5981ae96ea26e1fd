//! What listens: the coordinator and the worker, their gRPC and HTTP services.
