//go:build tools

// Package tools pins kubeconform, so that go.sum covers all it is built from.
package tools

import _ "github.com/yannh/kubeconform/cmd/kubeconform"
