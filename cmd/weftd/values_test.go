package main

import (
	"strings"
	"testing"
)

func TestHostPort(t *testing.T) {
	for text, want := range map[string]struct {
		open bool
		err  string
	}{
		"":                {open: true}, // nowhere: nobody asks
		"127.0.0.1:9101":  {},
		"[::1]:9101":      {},
		"localhost:9101":  {},
		":9101":           {open: true},
		"0.0.0.0:9101":    {open: true},
		"192.0.2.1:65535": {open: true},
		"9101":            {err: "want HOST:PORT"},
		"127.0.0.1":       {err: "want HOST:PORT"},
		"127.0.0.1:":      {err: "not a port"},
		"127.0.0.1:0":     {err: "not a port"},
		"127.0.0.1:65536": {err: "not a port"},
		"127.0.0.1:http":  {err: "not a port"},
		"node1:9101":      {err: "not an IP address"},
		"::1:9101":        {err: "want HOST:PORT"},
	} {
		var h hostPort
		err := h.Set(text)
		switch {
		case want.err == "" && (err != nil || h.String() != text || h.open() != want.open):
			t.Errorf("%q: %v, open %v", text, err, h.open())
		case want.err != "" && (err == nil || !strings.Contains(err.Error(), want.err)):
			t.Errorf("%q: %v, want %s", text, err, want.err)
		}
	}
}
