package apiserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	caFile     = "ca.crt"
	serverName = "apiserver" // of its files
)

// pair is a certificate and its key, in PEM.
type pair struct{ cert, key []byte }

// authority signs for the server and for its users.
type authority struct {
	pair
	parsed *x509.Certificate
	signer *ecdsa.PrivateKey
	serial int64

	server, admin pair
}

func newAuthority() (a *authority, err error) {
	a = &authority{}
	if a.pair, err = a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "weft test"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}); err != nil {
		return nil, err
	}
	if a.server, err = a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		DNSNames:    []string{"localhost", "kubernetes.default.svc"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		return nil, err
	}
	a.admin, err = a.user("admin", "system:masters", time.Now().Add(time.Hour))
	return a, err
}

// user gives a client certificate, which is all that a user is.
func (a *authority) user(name, group string, until time.Time) (pair, error) {
	return a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{group}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotAfter:    until,
	})
}

// issue signs a certificate; the first is the authority's own.
func (a *authority) issue(c *x509.Certificate) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	a.serial++
	c.SerialNumber, c.BasicConstraintsValid = big.NewInt(a.serial), true
	c.NotBefore = time.Now().Add(-24 * time.Hour)
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(24 * time.Hour)
	}
	if a.parsed == nil {
		a.parsed, a.signer = c, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, a.parsed, key.Public(), a.signer)
	if err != nil {
		return pair{}, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	return pair{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
	}, err
}

// write leaves what the server reads.
func (a *authority) write(dir string) error {
	for name, content := range map[string][]byte{
		caFile: a.cert, serverName + ".crt": a.server.cert, serverName + ".key": a.server.key,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Certificate is the server's, in PEM, for who stands in for it at 127.0.0.1.
func (s *Server) Certificate() (cert, key []byte) {
	return s.authority.server.cert, s.authority.server.key
}

// Admin may do everything.
func (s *Server) Admin() *rest.Config {
	return &rest.Config{Host: s.URL(), QPS: -1, TLSClientConfig: rest.TLSClientConfig{
		CAData: s.authority.cert, CertData: s.authority.admin.cert, KeyData: s.authority.admin.key,
	}}
}

// Credentials are a user's: a token, or a certificate for a name; or the files
// in which one of them is, and may be another tomorrow.
type Credentials struct {
	Token string
	Name  string
	Until time.Time // the certificate's end; zero: in an hour

	TokenFile, CertFile, KeyFile string
}

// UserCertificate is one for a user, in PEM.
func (s *Server) UserCertificate(name string, until time.Time) (cert, key []byte, err error) {
	p, err := s.authority.user(name, "weft", until)
	return p.cert, p.key, err
}

// Kubeconfig writes a kubeconfig for a user who reaches the server at url.
func (s *Server) Kubeconfig(file, url string, c Credentials) error {
	user := &clientcmdapi.AuthInfo{
		Token: c.Token, TokenFile: c.TokenFile, ClientCertificate: c.CertFile, ClientKey: c.KeyFile,
	}
	if c.Name != "" {
		if c.Until.IsZero() {
			c.Until = time.Now().Add(time.Hour)
		}
		p, err := s.authority.user(c.Name, "weft", c.Until)
		if err != nil {
			return err
		}
		user.ClientCertificateData, user.ClientKeyData = p.cert, p.key
	}
	const name = "test"
	out := clientcmdapi.NewConfig()
	out.Clusters[name] = &clientcmdapi.Cluster{Server: url, CertificateAuthorityData: s.authority.cert}
	out.AuthInfos[name] = user
	out.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	out.CurrentContext = name
	return clientcmd.WriteToFile(*out, file)
}
