package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/weftnet/weft/pkg/tlsfile"
)

// checkEndpoints finds what the client would find out late, or never.
func checkEndpoints(all []string) error {
	if len(all) == 0 {
		return errors.New("no etcd endpoint is given")
	}
	schemes := map[string]bool{}
	for _, e := range all {
		scheme, rest, ok := strings.Cut(e, "://")
		if !ok {
			scheme, rest = "", e
		}
		if strings.Contains(rest, "@") {
			return errors.New("an etcd endpoint holds a user name or password: give them by their own options")
		}
		switch scheme {
		case "", "http", "https":
			if u, err := url.Parse("http://" + rest); err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
				return fmt.Errorf("etcd endpoint %q is not of the form http://HOST:PORT or https://HOST:PORT", e)
			}
		case "unix", "unixs":
		default:
			return fmt.Errorf("etcd endpoint %q: %s is neither http nor https", e, scheme)
		}
		schemes[scheme] = true
	}
	if len(schemes) > 1 {
		return fmt.Errorf("etcd endpoints %s: all must be http or all https", strings.Join(all, ", "))
	}
	return nil
}

// encrypted reports whether an endpoint is reached over TLS. One without a
// scheme is if there are certificates.
func encrypted(endpoint string, files tlsfile.Files) bool {
	scheme, _, ok := strings.Cut(endpoint, "://")
	switch {
	case !ok || scheme == "unix":
		return files.Given()
	default:
		return scheme == "https" || scheme == "unixs"
	}
}

// transport is how connections are made. An https endpoint without files trusts
// the system's authorities.
func (s *Store) transport(files tlsfile.Files) (credentials.TransportCredentials, error) {
	reader, err := tlsfile.Open(files, "etcd", func(err error) { s.log.WithError(err).Warn("certificates for etcd") })
	if err != nil {
		return nil, err
	}
	first := s.opts.Endpoints[0] // they are all alike
	if !encrypted(first, files) {
		if files.Given() {
			s.log.WithField("endpoint", first).Warn("certificates for etcd are given, but the endpoint is not https: " +
				"the connection is not encrypted, and passwords can be read on the way; write https:// in --etcd-endpoints")
		}
		return insecure.NewCredentials(), nil
	}
	return &renewed{TransportCredentials: credentials.NewTLS(reader.Config()), reader: reader, shown: files.Cert}, nil
}

// renewed makes each connection with what the files hold at that time.
type renewed struct {
	credentials.TransportCredentials // for what is not about a handshake
	reader                           *tlsfile.Reader
	shown                            string // the file of our certificate
}

func (r *renewed) ClientHandshake(ctx context.Context, authority string, c net.Conn) (
	net.Conn, credentials.AuthInfo, error,
) {
	config := r.reader.Config()
	secured, info, err := credentials.NewTLS(config).ClientHandshake(ctx, authority, c)
	if err != nil {
		return nil, nil, err
	}
	return &unheard{Conn: secured, shown: r.shown}, info, nil
}

func (r *renewed) Clone() credentials.TransportCredentials {
	return &renewed{TransportCredentials: r.TransportCredentials.Clone(), reader: r.reader, shown: r.shown}
}

// unheard is a connection that is made from our side. In TLS 1.3 a server looks at our
// certificate after that (RFC 8446, 4.4.2.4), and one that refuses it may have closed
// before its alert is read: all that is left then is "broken pipe".
type unheard struct {
	net.Conn
	shown string // the file of the certificate that we show; empty: none
	heard atomic.Bool
}

func (u *unheard) Read(b []byte) (int, error) {
	n, err := u.Conn.Read(b)
	if n > 0 {
		u.heard.Store(true)
	}
	return n, u.explain(err)
}

func (u *unheard) Write(b []byte) (int, error) {
	n, err := u.Conn.Write(b)
	return n, u.explain(err)
}

func (u *unheard) explain(err error) error {
	if err == nil || u.heard.Load() || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if u.shown == "" {
		return fmt.Errorf("etcd ended the connection at once: perhaps it wants a client certificate, and none is given; "+
			"set --etcd-certfile and --etcd-keyfile: %w", err)
	}
	return fmt.Errorf("etcd ended the connection at once: perhaps it refuses the client certificate %s "+
		"(of another authority, expired, not for clients); etcd's own log tells: %w", u.shown, err)
}
