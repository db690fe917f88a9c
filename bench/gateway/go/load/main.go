// Command load asks a chat endpoint at a fixed rate, or keeps a fixed number of streams open, and says how long the answers
// took. Standard output is one JSON object per line: {"event":"measuring"}, {"event":"measured"}, and the result.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"graft.dev/bench/gateway/pace"
)

type options struct {
	urls        []string
	models      []string
	key         string
	rate        float64
	poisson     bool
	streams     int
	tokens      int
	warmUp      time.Duration
	measured    time.Duration
	timeout     time.Duration
	maxInFlight int
}

func main() {
	o := parse()
	// Collections are pauses of the measuring instrument.
	debug.SetGCPercent(800)
	clock, err := pace.NewClock()
	if err != nil {
		log.Fatal(err)
	}
	client := newClient(o)
	var result any
	if o.streams > 0 {
		result = keepStreams(o, clock, client)
	} else {
		result = sendRequests(o, clock, client)
	}
	report(result)
}

func parse() options {
	var o options
	urls := flag.String("url", "", "base addresses, such as http://127.0.0.1:8000, by comma, in turn")
	models := flag.String("model", "base", "model names, by comma, in turn")
	flag.StringVar(&o.key, "key", "", "API key")
	flag.Float64Var(&o.rate, "rate", 100, "requests per second")
	spacing := flag.String("spacing", "constant", "constant (with jitter of half an interval) or poisson")
	flag.IntVar(&o.streams, "streams", 0, "concurrent streams, instead of requests at a rate")
	flag.IntVar(&o.tokens, "tokens", 100, "per stream")
	flag.DurationVar(&o.warmUp, "warm-up", 3*time.Second, "not measured")
	flag.DurationVar(&o.measured, "measured", 15*time.Second, "measured")
	flag.DurationVar(&o.timeout, "timeout", 30*time.Second, "of one request")
	flag.IntVar(&o.maxInFlight, "max-in-flight", 4000, "requests beyond it count as failed (overload)")
	flag.Parse()
	o.models = strings.Split(*models, ",")
	o.urls = strings.Split(*urls, ",")
	o.poisson = *spacing == "poisson"
	if *urls == "" || (*spacing != "constant" && !o.poisson) {
		flag.Usage()
		os.Exit(2)
	}
	return o
}

func newClient(o options) *http.Client {
	return &http.Client{
		Timeout: o.timeout,
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			MaxIdleConnsPerHost: max(o.maxInFlight, o.streams),
			DisableCompression:  true,
		},
	}
}

// window is the time in which something counts.
type window struct{ begin, end time.Time }

func (w window) holds(moment time.Time) bool { return !moment.Before(w.begin) && moment.Before(w.end) }

// announce says when the window opens and closes, so that whoever started this can read processor times at both ends.
func (w window) announce(clock *pace.Clock) {
	clock.Until(w.begin)
	fmt.Println(`{"event":"measuring"}`)
	clock.Until(w.end)
	fmt.Println(`{"event":"measured"}`)
}

func report(result any) {
	written, err := json.Marshal(result)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(written))
}
