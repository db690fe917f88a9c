//go:build tools

// Package tools pins the KubeRay operator, so that go.sum covers all it is built from.
package tools

import _ "github.com/ray-project/kuberay/ray-operator"
