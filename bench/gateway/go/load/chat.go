package main

import (
	"bytes"
	"fmt"
	"net/http"
)

const (
	conversations = 100_000
	question      = "We run a cluster of forty nodes for our teams, and every night one of the nodes is replaced by a newer image. Yesterday " +
		"the replacement stopped half way: two pods of the billing service stayed on the old node for three hours, the node was " +
		"marked unschedulable, and nobody was told. Which steps would you take to find out why, in which order, and what would " +
		"you look at first? Please keep to what can be seen with kubectl."
	answer = "Look at the events of the node and of the two pods first, then at the disruption budgets that select them: " +
		"`kubectl get pdb -A` shows how many disruptions each of them allows right now. A budget that allows none blocks every eviction."
	follow = "The budget allows none, since one of the three replicas is not ready. Its readiness probe fails with a timeout against " +
		"the database, which was moved to another zone last week. What is the smallest change that lets the drain go on tonight " +
		"without risking the service, and how do I undo it in the morning?"
)

// newRequest is a chat request of about 1.2 KB, of a conversation that differs from every other nearby.
func newRequest(o options, number int, stream bool, tokens int) (*http.Request, error) {
	var body bytes.Buffer
	body.Grow(1600)
	fmt.Fprintf(&body, `{"model":"%s","messages":[{"role":"user","content":"Ticket %d. %s"},{"role":"assistant","content":"%s"},`+
		`{"role":"user","content":"%s"}],"max_tokens":%d,"temperature":0.2`,
		o.models[number%len(o.models)], number%conversations, question, answer, follow, tokens)
	if stream {
		body.WriteString(`,"stream":true,"stream_options":{"include_usage":true}`)
	}
	body.WriteByte('}')
	request, err := http.NewRequest(http.MethodPost, o.urls[number%len(o.urls)]+"/v1/chat/completions", &body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Traceparent", fmt.Sprintf("00-%032x-%016x-01", number+1, number+1))
	if o.key != "" {
		request.Header.Set("Authorization", "Bearer "+o.key)
	}
	return request, nil
}
