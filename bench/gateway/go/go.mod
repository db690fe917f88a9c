module graft.dev/bench/gateway

go 1.25.0
