package main

import (
	"bufio"
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"graft.dev/bench/gateway/pace"
)

// streamsResult is what a run with a fixed number of streams saw in its window.
type streamsResult struct {
	Event  string         `json:"event"`
	OK     int            `json:"ok"`
	Failed map[string]int `json:"failed"`
	Chunks int            `json:"chunks"`
	Rate   float64        `json:"chunk_rate"`
	// FirstToken is from the start of the request to its first token.
	FirstToken quantiles `json:"ttft_ms"`
	// Delay is from the time that the mock wrote into a token to its arrival.
	Delay quantiles `json:"delay_ms"`
	// Gap is between the arrivals of two tokens of a stream.
	Gap quantiles `json:"gap_ms"`
}

// seat is one of the concurrent streams: when one stream ends, the next begins.
type seat struct {
	measured                 window
	firstToken, delays, gaps samples
	ok                       int
	failed                   map[string]int
}

func keepStreams(o options, clock *pace.Clock, client *http.Client) streamsResult {
	begin := time.Now().Add(100 * time.Millisecond)
	measured := window{begin.Add(o.warmUp), begin.Add(o.warmUp + o.measured)}
	ctx, stop := context.WithDeadline(context.Background(), measured.end)
	defer stop()
	seats := make([]*seat, o.streams)
	var occupied sync.WaitGroup
	for number := range seats {
		seats[number] = &seat{measured: measured, failed: map[string]int{}}
		occupied.Go(func() {
			// Spread over half of the warm-up, so that neither starts nor tokens come in step.
			clock.Until(begin.Add(o.warmUp / 2 * time.Duration(number) / time.Duration(o.streams)))
			seats[number].keep(ctx, o, client, number)
		})
	}
	measured.announce(clock)
	occupied.Wait()
	return summary(o, seats)
}

func summary(o options, seats []*seat) streamsResult {
	all := &seat{failed: map[string]int{}}
	for _, one := range seats {
		all.firstToken = append(all.firstToken, one.firstToken...)
		all.delays = append(all.delays, one.delays...)
		all.gaps = append(all.gaps, one.gaps...)
		all.ok += one.ok
		for failure, times := range one.failed {
			all.failed[failure] += times
		}
	}
	return streamsResult{
		Event: "result", OK: all.ok, Failed: all.failed, Chunks: len(all.delays),
		Rate:       float64(len(all.delays)) / o.measured.Seconds(),
		FirstToken: all.firstToken.quantiles(), Delay: all.delays.quantiles(), Gap: all.gaps.quantiles(),
	}
}

// keep streams one answer after the other. The first is of any length, so that the ends spread over time.
func (s *seat) keep(ctx context.Context, o options, client *http.Client, number int) {
	for tokens := 1 + rand.IntN(o.tokens); ctx.Err() == nil; tokens = o.tokens {
		began := time.Now()
		failure := s.stream(ctx, o, client, number, tokens, began)
		number += o.streams
		if ctx.Err() != nil {
			return
		}
		s.count(failure)
		if failure != "" {
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// count is of the streams that end in the window.
func (s *seat) count(failure string) {
	switch {
	case !s.measured.holds(time.Now()):
	case failure != "":
		s.failed[failure]++
	default:
		s.ok++
	}
}

func (s *seat) stream(ctx context.Context, o options, client *http.Client, number, tokens int, began time.Time) string {
	request, err := newRequest(o, number, true, tokens)
	if err != nil {
		return "invalid"
	}
	answer, err := client.Do(request.WithContext(ctx))
	if err != nil {
		return kind(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return status(answer.StatusCode)
	}
	return s.read(bufio.NewScanner(answer.Body), tokens, began)
}

// read takes the events of one stream as they come.
func (s *seat) read(lines *bufio.Scanner, tokens int, began time.Time) string {
	var last time.Time
	seen, done := 0, false
	for lines.Scan() {
		event, found := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !found {
			continue
		}
		done = bytes.Equal(event, []byte("[DONE]"))
		stamp, isToken := sendTime(event)
		if !isToken {
			continue
		}
		seen++
		now := time.Now()
		if s.measured.holds(now) {
			s.delays = append(s.delays, time.Duration(now.UnixNano()-stamp))
			if seen > 1 {
				s.gaps = append(s.gaps, now.Sub(last))
			}
		}
		if seen == 1 && s.measured.holds(began) {
			s.firstToken = append(s.firstToken, now.Sub(began))
		}
		last = now
	}
	switch {
	case lines.Err() != nil:
		return kind(lines.Err())
	case !done:
		return "cut off"
	case seen != tokens:
		return "tokens lost"
	}
	return ""
}

// sendTime finds the mock's nanoseconds in a chunk, whatever spaces a proxy that writes the JSON anew puts before them.
func sendTime(event []byte) (int64, bool) {
	_, rest, found := bytes.Cut(event, []byte(`"content":`))
	if !found {
		return 0, false
	}
	rest = bytes.TrimLeft(rest, ` "`)
	var stamp int64
	digits := 0
	for ; digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9'; digits++ {
		stamp = stamp*10 + int64(rest[digits]-'0')
	}
	return stamp, digits > 0
}
