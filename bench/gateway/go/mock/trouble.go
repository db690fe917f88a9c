package main

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"
)

// trouble makes models fail, and remembers which caller asked for which model when. There is none until somebody asks for it.
type trouble struct {
	mutex sync.Mutex
	rates map[string]float64
	seen  map[string]map[string]*account
}

// account is one caller's requests for one model. Times are nanoseconds since 1970.
type account struct {
	Requests    int     `json:"requests"`
	LastStarted int64   `json:"last_started"`
	BadStarted  []int64 `json:"bad_started"`
	BadAnswered []int64 `json:"bad_answered"`
}

// begin notes a request, and returns what to call when its answer is due if that is to be an error.
func (t *trouble) begin(r *http.Request, model string) func() {
	now := time.Now().UnixNano()
	t.mutex.Lock()
	defer t.mutex.Unlock()
	one := t.of(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), model)
	one.Requests++
	one.LastStarted = now
	if rand.Float64() >= t.rates[model] {
		return nil
	}
	one.BadStarted = append(one.BadStarted, now)
	return func() {
		t.mutex.Lock()
		defer t.mutex.Unlock()
		one.BadAnswered = append(one.BadAnswered, time.Now().UnixNano())
	}
}

func (t *trouble) of(caller, model string) *account {
	models, known := t.seen[caller]
	if !known {
		models = map[string]*account{}
		t.seen[caller] = models
	}
	one, known := models[model]
	if !known {
		one = &account{BadStarted: []int64{}, BadAnswered: []int64{}}
		models[model] = one
	}
	return one
}

// setTrouble takes {"rates": {model: share of errors}} and forgets everything before.
func (s *server) setTrouble(w http.ResponseWriter, r *http.Request) {
	var wanted struct {
		Rates map[string]float64 `json:"rates"`
	}
	if err := json.NewDecoder(r.Body).Decode(&wanted); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.trouble.Store(&trouble{rates: wanted.Rates, seen: map[string]map[string]*account{}})
	w.WriteHeader(http.StatusNoContent)
}

// serveTrouble tells caller -> model -> what was asked.
func (s *server) serveTrouble(w http.ResponseWriter, _ *http.Request) {
	t := s.trouble.Load()
	if t == nil {
		http.Error(w, "PUT it first", http.StatusNotFound)
		return
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(t.seen)
}

func fail(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = w.Write([]byte(`{"error":{"message":"out of order","type":"InternalServerError","param":null,"code":500}}`))
}
