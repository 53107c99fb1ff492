package gather

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/tlsfile"
	"github.com/weftnet/weft/pkg/tlstest"
)

// TestTheStoresClock: a server that is five minutes behind is known to be, also
// where it wants our certificate; one that we don't trust tells nothing.
func TestTheStoresClock(t *testing.T) {
	dir := t.TempDir()
	ca := tlstest.New(t, dir, "ca")
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	ca.Issue(cert, key, tlstest.Cert{Name: "etcd", Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	late := http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
		out.Header().Set("Date", time.Now().Add(-5*time.Minute).UTC().Format(http.TimeFormat))
	})
	plain, secure := httptest.NewServer(late), httptest.NewUnstartedServer(late)
	t.Cleanup(plain.Close)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	secure.StartTLS()
	t.Cleanup(secure.Close)
	reader, err := tlsfile.Open(tlsfile.Files{CA: ca.File, Cert: cert, Key: key}, "etcd", func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		url     string
		secrets *tls.Config
		told    bool
	}{
		"without TLS":          {plain.URL, nil, true},
		"with our certificate": {secure.URL, reader.Config(), true},
		"not trusted":          {secure.URL, nil, false},
		"none":                 {"", nil, false},
	} {
		skew, told := skewOf(t.Context(), c.url, c.secrets)
		if told != c.told || told && (skew > -4*time.Minute || skew < -6*time.Minute) {
			t.Errorf("%s: told %t, %s", name, told, skew)
		}
	}
}
