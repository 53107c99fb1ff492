// Package tlsfile reads certificates from files, and reads them again when they
// are renewed.
//
// It owns the errors over such files, which name the file, the cause and the
// next step, and what happens when a renewed file can't be used: what was there
// before goes on. It refuses to open connections.
package tlsfile

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Files are paths of PEM files; empty: there is none.
type Files struct {
	CA        string // authorities to trust; none: those of the system
	Cert, Key string // our own certificate; both or none
}

// Given reports whether any file is named.
func (f Files) Given() bool { return f != Files{} }

// Reader gives what the files hold. Safe for concurrent use.
type Reader struct {
	files Files
	of    string
	warn  func(error)

	mu   sync.Mutex
	last content
	said string // the last warning, which is not repeated
}

// content is what the files held when they could be used.
type content struct {
	raw   [3][]byte // CA, Cert, Key
	roots *x509.CertPool
	pair  *tls.Certificate
}

// Open reads the files for the first time. of says in errors what they are for,
// such as "etcd"; warn is told once when renewed files can't be used, or when
// our certificate is out of date.
func Open(files Files, of string, warn func(error)) (*Reader, error) {
	if (files.Cert == "") != (files.Key == "") {
		return nil, fmt.Errorf("the certificate and the key for %s go together, but only %q is given; "+
			"give both or none", of, files.Cert+files.Key)
	}
	r := &Reader{files: files, of: of, warn: warn}
	have, err := r.read(content{})
	if err != nil {
		return nil, err
	}
	r.last = have
	r.judgeAge()
	if err := Exposed(files.Key); err != nil {
		warn(err)
	}
	return r, nil
}

// Exposed is the complaint about a file with a secret that others than its
// owner and group may read; nil also where there is no such file.
func Exposed(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o004 == 0 {
		return nil //nolint:nilerr // who reads it says what is wrong
	}
	return fmt.Errorf("%s holds a secret, and everybody on this host may read it (mode %04o): chmod o-rwx %s",
		path, info.Mode().Perm(), path)
}

// Config is for one handshake of a client, with what the files hold now.
func (r *Reader) Config() *tls.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have, err := r.read(r.last); err != nil {
		r.tell(fmt.Errorf("%w; going on with what was there before", err))
	} else {
		r.last = have
		r.judgeAge()
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: r.last.roots}
	if pair := r.last.pair; pair != nil {
		// By this and not as Certificates: those are not sent to a server that
		// names other authorities, which then says only that one is missing.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	}
	return c
}

// read gives the content of the files; before itself if they are the same.
func (r *Reader) read(before content) (content, error) {
	var c content
	for i, path := range []string{r.files.CA, r.files.Cert, r.files.Key} {
		if path == "" {
			continue
		}
		var err error
		if c.raw[i], err = os.ReadFile(path); err != nil {
			return content{}, fmt.Errorf("read the %s for %s: %w; check the path, and that weft may read it",
				r.what(i), r.of, err)
		}
	}
	if (before.roots != nil || before.pair != nil) && bytes.Equal(c.raw[0], before.raw[0]) &&
		bytes.Equal(c.raw[1], before.raw[1]) && bytes.Equal(c.raw[2], before.raw[2]) {
		return before, nil
	}
	if r.files.CA != "" {
		var err error
		if c.roots, err = pool(c.raw[0]); err != nil {
			return content{}, fmt.Errorf("%s for %s in %s: %w; want one or more certificates in PEM form",
				r.what(0), r.of, r.files.CA, err)
		}
	}
	if r.files.Cert != "" {
		pair, err := tls.X509KeyPair(c.raw[1], c.raw[2])
		if err != nil {
			return content{}, fmt.Errorf("%s for %s in %s with the key in %s: %w; "+
				"want both in PEM form, and the key that the certificate was made for",
				r.what(1), r.of, r.files.Cert, r.files.Key, err)
		}
		c.pair = &pair
	}
	return c, nil
}

func (r *Reader) what(i int) string {
	return [...]string{"CA certificates", "certificate", "key"}[i]
}

// pool is stricter than AppendCertsFromPEM, which passes over what it can't read.
func pool(raw []byte) (*x509.CertPool, error) {
	out, found := x509.NewCertPool(), false
	for {
		var block *pem.Block
		if block, raw = pem.Decode(raw); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out.AddCert(cert)
		found = true
	}
	if !found {
		return nil, errors.New("there is no certificate in the file")
	}
	return out, nil
}

// judgeAge warns of a certificate that the other side will refuse.
func (r *Reader) judgeAge() {
	if r.last.pair == nil || r.last.pair.Leaf == nil {
		r.said = ""
		return
	}
	leaf, now := r.last.pair.Leaf, time.Now()
	switch {
	case now.After(leaf.NotAfter):
		r.tell(fmt.Errorf("the certificate for %s in %s was valid until %s; renew it, the new one is used without a restart",
			r.of, r.files.Cert, leaf.NotAfter.UTC().Format(time.RFC3339)))
	case now.Before(leaf.NotBefore):
		r.tell(fmt.Errorf("the certificate for %s in %s is not valid before %s; check the clock of this host",
			r.of, r.files.Cert, leaf.NotBefore.UTC().Format(time.RFC3339)))
	default:
		r.said = ""
	}
}

func (r *Reader) tell(err error) {
	if text := err.Error(); text != r.said {
		r.said = text
		r.warn(err)
	}
}
