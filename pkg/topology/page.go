package topology

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
)

// Page is what a server of ServePages answers with: who it is, and from which
// address the request came, which tells whether there was NAT on the way.
type Page struct {
	Name   string     `json:"name"`
	Client netip.Addr `json:"client"`
}

// ServePages answers every request on the listeners until ctx ends; it closes
// them and returns ctx's error, or the first error of a listener.
func ServePages(ctx context.Context, name string, listeners ...net.Listener) error {
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: pageHandler(name)}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		<-ctx.Done()
		return errors.Join(ctx.Err(), server.Close())
	})
	for _, l := range listeners {
		group.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve pages of %s at %s: %w", name, l.Addr(), err)
			}
			return nil
		})
	}
	return group.Wait()
}

func pageHandler(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		client, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(Page{Name: name, Client: client.Addr().Unmap()}) // the client has gone: nobody to tell
	}
}

// Fetch gets the page of a server of ServePages from inside the namespace.
func (ns *Namespace) Fetch(ctx context.Context, at netip.AddrPort) (Page, error) {
	page, err := ns.fetch(ctx, at)
	if err != nil {
		return Page{}, fmt.Errorf("fetch from %s: %w", ns.Name, err)
	}
	return page, nil
}

func (ns *Namespace) fetch(ctx context.Context, at netip.AddrPort) (Page, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+"/", nil)
	if err != nil {
		return Page{}, err
	}
	response, err := ns.Client().Do(request)
	if err != nil {
		return Page{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return Page{}, fmt.Errorf("http status %s", response.Status)
	}
	var page Page
	if err := json.NewDecoder(response.Body).Decode(&page); err != nil {
		return Page{}, fmt.Errorf("page of %s: %w", at, err)
	}
	return page, nil
}
