// Command proxy stands for an Ingress controller: it listens at port 80 and
// passes every request on to the one URL that it is given.
package main

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "proxy:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%d arguments: want one URL", len(args))
	}
	to, err := url.Parse(args[0])
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr: ":80", ReadHeaderTimeout: 5 * time.Second,
		Handler: &httputil.ReverseProxy{
			Transport: &http.Transport{DisableKeepAlives: true}, // so that each request meets the Service anew
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(to)
				r.SetXForwarded()
			},
		},
	}
	return server.ListenAndServe()
}
