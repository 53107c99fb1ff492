package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Answer is what the control socket answers to GET of a path, to be closed; an
// error is its reason. It waits for the end of the answer, so nothing must be
// followed.
func (n *Node) Answer(ctx context.Context, path string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://weftd"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask for %q: %w", path, err)
	}
	a := answer{header: http.Header{}, code: http.StatusOK}
	n.control().ServeHTTP(&a, request)
	if a.code != http.StatusOK {
		return nil, errors.New(strings.TrimSpace(a.String()))
	}
	return io.NopCloser(&a), nil
}

// answer keeps what a handler writes.
type answer struct {
	bytes.Buffer
	header http.Header
	code   int
}

// Header is that of the answer.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader keeps the status.
func (a *answer) WriteHeader(code int) { a.code = code }
