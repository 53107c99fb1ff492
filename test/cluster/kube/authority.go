package kube

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/netip"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// pair is a certificate and its key, in PEM.
type pair struct{ cert, key []byte }

// authority signs for the API server and for all of its users.
type authority struct {
	pair
	parsed *x509.Certificate
	signer crypto.Signer
	serial int64
}

func newAuthority() (a *authority, err error) {
	a = &authority{}
	a.pair, err = a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "weft e2e"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a, err
}

// server is for the API server at the addresses.
func (a *authority) server(addrs []netip.Addr) (pair, error) {
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"},
		DNSNames: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local", "localhost"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, addr := range addrs {
		c.IPAddresses = append(c.IPAddresses, addr.AsSlice())
	}
	return a.issue(c)
}

// user gives a client certificate, which is all that a user is.
func (a *authority) user(name, group string) (pair, error) {
	return a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{group}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
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
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
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

// kubeconfig is one for a user who reaches the API server at url.
func (a *authority) kubeconfig(url, name, group string) (string, error) {
	p, err := a.user(name, group)
	if err != nil {
		return "", err
	}
	const entry = "e2e"
	c := clientcmdapi.NewConfig()
	c.Clusters[entry] = &clientcmdapi.Cluster{Server: url, CertificateAuthorityData: a.cert}
	c.AuthInfos[entry] = &clientcmdapi.AuthInfo{ClientCertificateData: p.cert, ClientKeyData: p.key}
	c.Contexts[entry] = &clientcmdapi.Context{Cluster: entry, AuthInfo: entry}
	c.CurrentContext = entry
	raw, err := clientcmd.Write(*c)
	return string(raw), err
}
