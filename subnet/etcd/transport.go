package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

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
	return &renewed{TransportCredentials: credentials.NewTLS(reader.Config()), reader: reader}, nil
}

// renewed makes each connection with what the files hold at that time.
type renewed struct {
	credentials.TransportCredentials // for what is not about a handshake
	reader                           *tlsfile.Reader
}

func (r *renewed) ClientHandshake(ctx context.Context, authority string, c net.Conn) (
	net.Conn, credentials.AuthInfo, error,
) {
	return credentials.NewTLS(r.reader.Config()).ClientHandshake(ctx, authority, c)
}

func (r *renewed) Clone() credentials.TransportCredentials {
	return &renewed{TransportCredentials: r.TransportCredentials.Clone(), reader: r.reader}
}
