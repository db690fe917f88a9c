package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"syscall"
	"time"
)

type samples []time.Duration

// quantiles are in milliseconds, by the nearest rank.
type quantiles struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func (s samples) quantiles() quantiles {
	if len(s) == 0 {
		return quantiles{}
	}
	slices.Sort(s)
	at := func(share float64) float64 {
		rank := max(1, int(math.Ceil(share*float64(len(s)))))
		return math.Round(s[rank-1].Seconds()*1e6) / 1e3
	}
	return quantiles{Count: len(s), P50: at(0.5), P90: at(0.9), P99: at(0.99), Max: at(1)}
}

func status(code int) string { return fmt.Sprintf("status %d", code) }

// kind names a failure without addresses, so that equal ones are counted together.
func kind(err error) string {
	var network net.Error
	switch {
	case errors.As(err, &network) && network.Timeout():
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "cut off"
	}
	return fmt.Sprintf("%T", errors.Unwrap(err))
}
