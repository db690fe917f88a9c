package main

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"graft.dev/bench/gateway/pace"
)

// requestsResult is what an open-loop run saw. A request belongs to it by the time at which it was to be sent.
type requestsResult struct {
	Event    string         `json:"event"`
	Sent     int            `json:"sent"`
	OK       int            `json:"ok"`
	Failed   map[string]int `json:"failed"`
	Achieved float64        `json:"achieved_rate"`
	// Latency is from the intended send time to the last byte, so that a stall counts for everything that it holds up.
	Latency quantiles `json:"latency_ms"`
	// Lag is how late the generator itself was: its own error.
	Lag quantiles `json:"lag_ms"`
}

type recorder struct {
	mutex   sync.Mutex
	latency samples
	lag     samples
	failed  map[string]int
	inside  int
}

func sendRequests(o options, clock *pace.Clock, client *http.Client) requestsResult {
	begin := time.Now().Add(100 * time.Millisecond)
	measured := window{begin.Add(o.warmUp), begin.Add(o.warmUp + o.measured)}
	go measured.announce(clock)
	seen := &recorder{failed: map[string]int{}}
	var requests sync.WaitGroup
	var inFlight atomic.Int64
	sent := 0
	random := rand.New(rand.NewPCG(1, 2))
	for number, due := range schedule(o, begin, measured.end, random) {
		clock.Until(due)
		if measured.holds(due) {
			sent++
		}
		if inFlight.Load() >= int64(o.maxInFlight) {
			seen.fail(measured.holds(due), "overload")
			continue
		}
		inFlight.Add(1)
		requests.Go(func() {
			defer inFlight.Add(-1)
			lag := time.Since(due)
			failure := ask(o, client, number)
			seen.add(measured, due, lag, failure)
		})
	}
	requests.Wait()
	return requestsResult{
		Event: "result", Sent: sent, OK: len(seen.latency), Failed: seen.failed,
		Achieved: float64(seen.inside) / o.measured.Seconds(), Latency: seen.latency.quantiles(), Lag: seen.lag.quantiles(),
	}
}

// schedule yields when to send: at even spaces with jitter, or as a Poisson process.
func schedule(o options, begin, end time.Time, random *rand.Rand) func(func(int, time.Time) bool) {
	interval := float64(time.Second) / o.rate
	return func(yield func(int, time.Time) bool) {
		elapsed := 0.0
		for number := 0; ; number++ {
			offset := float64(number)*interval + (random.Float64()-0.5)*interval/2
			if o.poisson {
				elapsed += random.ExpFloat64() * interval
				offset = elapsed
			}
			due := begin.Add(time.Duration(offset))
			if !due.Before(end) || !yield(number, due) {
				return
			}
		}
	}
}

// ask sends one request and returns what went wrong, or nothing.
func ask(o options, client *http.Client, number int) string {
	request, err := newRequest(o, number, false, 48)
	if err != nil {
		return "invalid"
	}
	answer, err := client.Do(request)
	if err != nil {
		return kind(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return kind(err)
	case answer.StatusCode != http.StatusOK:
		return status(answer.StatusCode)
	case !bytes.Contains(body, []byte("chat.completion")):
		return "not a completion"
	}
	return ""
}

func (r *recorder) fail(counts bool, failure string) {
	if !counts {
		return
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.failed[failure]++
}

func (r *recorder) add(measured window, due time.Time, lag time.Duration, failure string) {
	now := time.Now()
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if failure == "" && measured.holds(now) {
		r.inside++
	}
	switch {
	case !measured.holds(due):
	case failure != "":
		r.failed[failure]++
	default:
		r.latency = append(r.latency, now.Sub(due))
		r.lag = append(r.lag, lag)
	}
}
