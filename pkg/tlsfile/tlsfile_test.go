package tlsfile_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/tlsfile"
	"github.com/weftnet/weft/pkg/tlstest"
)

func files(dir string) tlsfile.Files {
	return tlsfile.Files{
		CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"),
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	tests := map[string]struct {
		change func(t *testing.T, f *tlsfile.Files)
		want   []string // beside the purpose
	}{
		"no CA file":     {func(_ *testing.T, f *tlsfile.Files) { f.CA = "/nowhere/ca.pem" }, []string{"/nowhere/ca.pem", "no such file", "check the path"}},
		"no certificate": {func(_ *testing.T, f *tlsfile.Files) { f.Cert = "/nowhere/c.pem" }, []string{"/nowhere/c.pem", "no such file", "check the path"}},
		"no key":         {func(_ *testing.T, f *tlsfile.Files) { f.Key = "/nowhere/k.pem" }, []string{"read the key", "/nowhere/k.pem", "no such file"}},
		"a key alone":    {func(_ *testing.T, f *tlsfile.Files) { f.Cert = "" }, []string{"key.pem", "go together", "give both or none"}},
		"a CA file without a certificate": {
			func(t *testing.T, f *tlsfile.Files) { damage(t, f.CA, "hello") }, []string{"ca.pem", "no certificate", "PEM"},
		},
		"a CA certificate that is cut off": {
			func(t *testing.T, f *tlsfile.Files) {
				damage(t, f.CA, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
			}, []string{"ca.pem", "x509"},
		},
		"a key that is none": {func(t *testing.T, f *tlsfile.Files) { damage(t, f.Key, "hello") }, []string{"cert.pem", "key.pem", "PEM"}},
		"another one's key": {
			func(t *testing.T, f *tlsfile.Files) {
				other := files(t.TempDir())
				tlstest.New(t, filepath.Dir(other.CA), "ca").Issue(other.Cert, other.Key, tlstest.Cert{})
				f.Key = other.Key
			}, []string{"cert.pem", "key.pem", "does not match", "made for"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := files(t.TempDir())
			tlstest.New(t, filepath.Dir(f.CA), "ca").Issue(f.Cert, f.Key, tlstest.Cert{})
			test.change(t, &f)
			_, err := tlsfile.Open(f, "the store", func(error) {})
			if err == nil {
				t.Fatal("it was taken")
			}
			for _, want := range append(test.want, "the store") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("want %q in the error, have: %v", want, err)
				}
			}
		})
	}
}

func damage(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// name is that of the certificate which the configuration shows to a server.
func name(t *testing.T, c *tls.Config) string {
	t.Helper()
	cert, err := c.GetClientCertificate(&tls.CertificateRequestInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf.Subject.CommonName
}

func TestAKeyThatEverybodyMayReadIsWarnedOf(t *testing.T) {
	f := files(t.TempDir())
	tlstest.New(t, filepath.Dir(f.CA), "ca").Issue(f.Cert, f.Key, tlstest.Cert{Name: "client"})
	for mode, want := range map[os.FileMode]int{0o600: 0, 0o640: 0, 0o644: 1, 0o444: 1} {
		if err := os.Chmod(f.Key, mode); err != nil {
			t.Fatal(err)
		}
		var warnings []string
		if _, err := tlsfile.Open(f, "the store", func(err error) { warnings = append(warnings, err.Error()) }); err != nil {
			t.Fatal(err)
		}
		if len(warnings) != want || want == 1 && !strings.Contains(warnings[0], "chmod o-rwx "+f.Key) {
			t.Errorf("mode %o: %q", mode, warnings)
		}
	}
}

func TestRenewedFilesAreUsed(t *testing.T) {
	f := files(t.TempDir())
	ca := tlstest.New(t, filepath.Dir(f.CA), "ca")
	ca.Issue(f.Cert, f.Key, tlstest.Cert{Name: "first"})
	var warnings []string
	r, err := tlsfile.Open(f, "the store", func(err error) { warnings = append(warnings, err.Error()) })
	if err != nil {
		t.Fatal(err)
	}
	first := r.Config()
	if have := name(t, first); have != "first" || first.MinVersion != tls.VersionTLS12 {
		t.Errorf("have %s, from TLS version %x", have, first.MinVersion)
	}
	ca.Issue(f.Cert, f.Key, tlstest.Cert{Name: "second"})
	other := tlstest.New(t, filepath.Dir(f.CA), "ca")
	second := r.Config()
	if have := name(t, second); have != "second" || second.RootCAs.Equal(first.RootCAs) {
		t.Errorf("after renewal: %s, the old authority: %v", have, second.RootCAs.Equal(first.RootCAs))
	}
	if len(warnings) > 0 {
		t.Errorf("warnings without a reason: %q", warnings)
	}

	damage(t, f.Key, "half of a ")
	for range 3 {
		if have := name(t, r.Config()); have != "second" {
			t.Errorf("while the files can't be used: %s", have)
		}
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], f.Key) {
		t.Errorf("want one warning that names the key, have %q", warnings)
	}
	other.Issue(f.Cert, f.Key, tlstest.Cert{Name: "third", Until: time.Now().Add(-time.Minute)})
	for range 3 {
		if have := name(t, r.Config()); have != "third" {
			t.Errorf("after the repair: %s", have)
		}
	}
	if len(warnings) != 2 || !strings.Contains(warnings[1], "valid until") {
		t.Errorf("want one more warning, of a certificate that is out of date; have %q", warnings)
	}
}

func TestTheAuthoritiesOfTheSystem(t *testing.T) {
	r, err := tlsfile.Open(tlsfile.Files{}, "the store", func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Config(); c.RootCAs != nil || c.GetClientCertificate != nil {
		t.Errorf("without files there is nothing of ours in it: %+v", c)
	}
}
