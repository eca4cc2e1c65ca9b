package main

import (
	"net/http"
	"strings"
	"sync"
)

// ledger remembers what was asked of the server.
type ledger struct {
	sync.Mutex
	lines []string
}

type teller struct {
	ledger *ledger
	next   http.RoundTripper
}

func (l *ledger) wrap(next http.RoundTripper) http.RoundTripper {
	return &teller{l, next}
}

func (t *teller) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.next.RoundTrip(request)
	kind := ""
	if err == nil {
		kind = response.Header.Get("Content-Type")
	}
	t.ledger.Lock()
	defer t.ledger.Unlock()
	t.ledger.lines = append(t.ledger.lines, strings.Join([]string{request.Method, request.URL.RequestURI(), kind}, " "))
	return response, err
}

// about returns the requests whose line contains all of these words.
func (l *ledger) about(words ...string) []string {
	l.Lock()
	defer l.Unlock()
	var found []string
next:
	for _, line := range l.lines {
		for _, word := range words {
			if !strings.Contains(line, word) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}
