// Command weftd is the node daemon of weft: see `weftd --help`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	var usage *usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "weftd: %v\nSee weftd --help.\n", err)
		os.Exit(2)
	default:
		fmt.Fprintf(os.Stderr, "weftd: %v\n", err)
		os.Exit(1)
	}
}
