package kube

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
)

// timer tells how long requests to the API server take, up to the beginning of
// the answer: a watch is there then.
type timer struct {
	next http.RoundTripper
	tell func(op string, took time.Duration, err error)
}

// operation names what a request does, in the words of the metric.
func operation(r *http.Request) string {
	switch {
	case r.Method == http.MethodGet && r.URL.Query().Get("watch") != "":
		return "watch-start"
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/nodes"):
		return "list"
	case r.Method == http.MethodGet:
		return "get"
	case r.Method == http.MethodPatch:
		return "patch"
	}
	return "other"
}

// RoundTrip makes a request.
func (t timer) RoundTrip(r *http.Request) (*http.Response, error) {
	begun := time.Now()
	reply, err := t.next.RoundTrip(r)
	failed := err
	if err == nil && reply.StatusCode >= http.StatusBadRequest {
		failed = errors.New(reply.Status)
	}
	if !errors.Is(err, context.Canceled) { // what we gave up ourselves says nothing about the API server
		t.tell(operation(r), time.Since(begun), failed)
	}
	return reply, err
}
