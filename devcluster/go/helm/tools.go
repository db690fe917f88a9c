//go:build tools

// Package tools pins Helm, so that go.sum covers all it is built from.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
