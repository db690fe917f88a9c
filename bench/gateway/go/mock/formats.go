package main

// format is how one route answers: patterns of id, time and model, then what else the chunk carries. Key order, nulls and sizes
// are those of vLLM's answers.
type format struct {
	prefix, answer, role, token, finish, usage string
}

const prose = "To drain a node, mark it unschedulable first, then evict its pods one by one and wait for each of them to end. A pod " +
	"disruption budget may hold an eviction back; then try again a little later."

var chat = format{
	prefix: "chatcmpl-",
	answer: `{"id":"%s","object":"chat.completion","created":%d,"model":"%s","choices":[{"index":0,"message":{"role":"assistant","content":"` + prose +
		`","refusal":null,"annotations":null,"audio":null,"function_call":null,"tool_calls":[],"reasoning":null},"logprobs":null,` +
		`"finish_reason":"stop","stop_reason":null,"token_ids":null}],"service_tier":null,"system_fingerprint":null,` +
		`"usage":{"prompt_tokens":300,"total_tokens":348,"completion_tokens":48,"prompt_tokens_details":null},"prompt_logprobs":null}`,
	role: `{"id":"%s","object":"chat.completion.chunk","created":%d,"model":"%s","choices":[{"index":0,"delta":{"role":"assistant","content":""},` +
		`"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}`,
	token: `{"id":"%s","object":"chat.completion.chunk","created":%d,"model":"%s","choices":[{"index":0,"delta":{"content":"%d "},` +
		`"logprobs":null,"finish_reason":null,"token_ids":null}]}`,
	finish: `{"id":"%s","object":"chat.completion.chunk","created":%d,"model":"%s","choices":[{"index":0,"delta":{"content":""},` +
		`"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null}]}`,
	usage: `{"id":"%s","object":"chat.completion.chunk","created":%d,"model":"%s","choices":[],` +
		`"usage":{"prompt_tokens":300,"completion_tokens":%d,"total_tokens":%d}}`,
}

var text = format{
	prefix: "cmpl-",
	answer: `{"id":"%s","object":"text_completion","created":%d,"model":"%s","choices":[{"index":0,"text":"` + prose +
		`","logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null}],` +
		`"service_tier":null,"system_fingerprint":null,"usage":{"prompt_tokens":300,"total_tokens":348,"completion_tokens":48,"prompt_tokens_details":null}}`,
	token: `{"id":"%s","object":"text_completion","created":%d,"model":"%s","choices":[{"index":0,"text":"%d ",` +
		`"logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}`,
	finish: `{"id":"%s","object":"text_completion","created":%d,"model":"%s","choices":[{"index":0,"text":"",` +
		`"logprobs":null,"finish_reason":"stop","stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}`,
	usage: `{"id":"%s","object":"text_completion","created":%d,"model":"%s","choices":[],` +
		`"usage":{"prompt_tokens":300,"completion_tokens":%d,"total_tokens":%d}}`,
}
