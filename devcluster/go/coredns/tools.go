//go:build tools

// Package tools pins CoreDNS, so that go.sum covers all it is built from.
package tools

import _ "github.com/coredns/coredns"
