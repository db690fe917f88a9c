//go:build tools

// Package tools pins versitygw, so that go.sum covers all it is built from.
package tools

import _ "github.com/versity/versitygw/cmd/versitygw"
