// Command mock is a model server without a model: OpenAI's routes, a fixed delay, and streams at a fixed rate in which every
// token is the time at which it was sent.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"graft.dev/bench/gateway/pace"
)

const statePoll = 20 * time.Second

type server struct {
	clock    *pace.Clock
	delay    time.Duration
	interval time.Duration
	state    string
	requests atomic.Uint64
	trouble  atomic.Pointer[trouble]
}

// request is what the mock reads of a chat or completion request.
type request struct {
	Model         string `json:"model"`
	Stream        bool   `json:"stream"`
	MaxTokens     int    `json:"max_tokens"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address")
	delay := flag.Duration("delay", 10*time.Millisecond, "from request to answer, or to a stream's first chunk")
	rate := flag.Float64("tokens-per-second", 20, "of each stream")
	state := flag.String("state", "", "file that GET /graft/state answers with")
	flag.Parse()
	clock, err := pace.NewClock()
	if err != nil {
		log.Fatal(err)
	}
	s := &server{clock: clock, delay: *delay, interval: time.Duration(float64(time.Second) / *rate), state: *state}
	log.Fatal(http.ListenAndServe(*listen, s.routes()))
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) { s.complete(w, r, chat) })
	mux.HandleFunc("POST /v1/completions", func(w http.ResponseWriter, r *http.Request) { s.complete(w, r, text) })
	mux.HandleFunc("GET /v1/models", models)
	mux.HandleFunc("GET /graft/state", s.serveState)
	mux.HandleFunc("PUT /bench/trouble", s.setTrouble)
	mux.HandleFunc("GET /bench/trouble", s.serveTrouble)
	for _, path := range []string{"GET /health", "GET /graft/livez", "GET /liveness", "GET /readiness"} {
		mux.HandleFunc(path, func(http.ResponseWriter, *http.Request) {})
	}
	return mux
}

func (s *server) complete(w http.ResponseWriter, r *http.Request, words format) {
	due := time.Now().Add(s.delay)
	var asked request
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, `{"error":{"message":"`+err.Error()+`","type":"BadRequestError","code":400}}`, http.StatusBadRequest)
		return
	}
	if t := s.trouble.Load(); t != nil {
		if failed := t.begin(r, asked.Model); failed != nil {
			s.clock.Until(due)
			failed()
			fail(w)
			return
		}
	}
	id := fmt.Sprintf("%s%032x", words.prefix, s.requests.Add(1))
	if asked.Stream {
		s.stream(w, r, asked, words, id, due)
		return
	}
	s.clock.Until(due)
	body := fmt.Appendf(nil, words.answer, id, time.Now().Unix(), asked.Model)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}

// stream sends each token when it is due, however late the one before was, as a model server with other streams would.
func (s *server) stream(w http.ResponseWriter, r *http.Request, asked request, words format, id string, due time.Time) {
	events := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	created := time.Now().Unix()
	send := func(pattern string, last ...any) bool {
		body := fmt.Appendf(nil, "data: "+pattern+"\n\n", append([]any{id, created, asked.Model}, last...)...)
		_, err := w.Write(body)
		return err == nil && events.Flush() == nil && r.Context().Err() == nil
	}
	s.clock.Until(due)
	if words.role != "" && !send(words.role) {
		return
	}
	for number := range max(1, asked.MaxTokens) {
		s.clock.Until(due.Add(time.Duration(number) * s.interval))
		if !send(words.token, time.Now().UnixNano()) {
			return
		}
	}
	if !send(words.finish) || (asked.StreamOptions.IncludeUsage && !send(words.usage, asked.MaxTokens, 300+asked.MaxTokens)) {
		return
	}
	_, _ = w.Write([]byte("data: [DONE]\n\n"))
}

func models(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"object":"list","data":[{"id":"base","object":"model","created":1700000000,"owned_by":"vllm","root":"/graft/model","parent":null,"max_model_len":8192}]}`))
}

// serveState answers with the file as it is. With ?after=<its generation> it waits for another one, as an agent does.
func (s *server) serveState(w http.ResponseWriter, r *http.Request) {
	until := time.Now().Add(statePoll)
	for {
		content, err := os.ReadFile(s.state)
		if err != nil {
			http.Error(w, "no state", http.StatusNotFound)
			return
		}
		var known struct {
			Generation json.Number `json:"generation"`
		}
		_ = json.Unmarshal(content, &known)
		if r.URL.Query().Get("after") != known.Generation.String() || time.Now().After(until) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(content)
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}
