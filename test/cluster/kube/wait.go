package kube

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// final is an error that no waiting mends.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// Final marks an error for Eventually: it gives up.
func Final(err error) error { return final{err} }

// Eventually asks again and again until the answer is good.
func Eventually(ctx context.Context, most time.Duration, what string, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if errors.As(err, &final{}) {
			return fmt.Errorf("%s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, ctx.Err(), err)
		case <-tick.C:
		}
	}
}
