// Package tlstest issues certificates for tests.
package tlstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA is an authority of one test.
type CA struct {
	File string // its certificate

	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority whose file lies in dir.
func New(t testing.TB, dir, name string) *CA {
	t.Helper()
	ca := &CA{t: t, File: filepath.Join(dir, name+".pem"), key: newKey(t)}
	ca.cert = &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, ca.cert, ca.cert, &ca.key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, ca.File, "CERTIFICATE", raw)
	return ca
}

// Cert is what a certificate is for.
type Cert struct {
	Name  string // common name
	Addrs []netip.Addr
	Until time.Time // zero: an hour from now
}

// Issue writes a certificate, good for servers and for clients, and its key.
// Each file is replaced in one step.
func (ca *CA) Issue(certFile, keyFile string, c Cert) {
	ca.t.Helper()
	key := newKey(ca.t)
	if c.Until.IsZero() {
		c.Until = time.Now().Add(time.Hour)
	}
	cert := &x509.Certificate{
		SerialNumber: serial(ca.t), Subject: pkix.Name{CommonName: c.Name}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: c.Until,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, a := range c.Addrs {
		cert.IPAddresses = append(cert.IPAddresses, a.AsSlice())
	}
	raw, err := x509.CreateCertificate(rand.Reader, cert, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	write(ca.t, certFile, "CERTIFICATE", raw)
	write(ca.t, keyFile, "PRIVATE KEY", secret)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func write(t testing.TB, file, kind string, raw []byte) {
	t.Helper()
	next := file + ".new"
	if err := os.WriteFile(next, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, file); err != nil {
		t.Fatal(err)
	}
}
