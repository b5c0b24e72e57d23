package health

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/net/http2"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// maxCA is the most that a file of certificates may hold, in bytes.
const maxCA = 1 << 20

// TLSVersions are the versions that `tls: {min}` can name, the oldest first.
var TLSVersions = []string{"1.0", "1.1", "1.2", "1.3"}

// tlsNumbers are the versions on the wire.
var tlsNumbers = map[string]uint16{
	"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13,
}

// CipherSuites names what `tls: {ciphers}` can have, by the names of IANA.
// TLS 1.3 has suites of its own, which are always offered.
func CipherSuites() []string {
	var names []string
	for _, s := range cipherSuites() {
		names = append(names, s.Name)
	}
	return names
}

func cipherSuites() []*tls.CipherSuite {
	return append(tls.CipherSuites(), tls.InsecureCipherSuites()...)
}

// tlsConfig offers all that the library can, unless the check narrows it: a
// server that serves old clients is not dead.
func tlsConfig(s Spec, host string) (*tls.Config, error) {
	name := s.SNI
	if name == "" {
		name = host
		if h, _, err := net.SplitHostPort(host); err == nil {
			name = h
		}
		name = strings.Trim(name, "[]")
	}
	cfg := &tls.Config{
		ServerName: name, InsecureSkipVerify: s.SkipVerify,
		MinVersion: tls.VersionTLS10, NextProtos: []string{"http/1.1", http2.NextProtoTLS},
	}
	if s.TLSMin != "" {
		var ok bool
		if cfg.MinVersion, ok = tlsNumbers[s.TLSMin]; !ok {
			return nil, fmt.Errorf("https check: TLS version %q (known: %s)", s.TLSMin, strings.Join(TLSVersions, " "))
		}
	}
	var err error
	if cfg.CipherSuites, err = suiteNumbers(splitLines(s.TLSCiphers)); err != nil {
		return nil, err
	}
	return cfg, nil
}

// authorities are the certificates of a file to trust. It is read when it is needed
// first, and again when a server is not trusted: the file may have been changed.
type authorities struct {
	path string
	pem  []byte
	pool *x509.CertPool // nil until they are read
}

// read takes what the file holds. It reports whether that has changed.
func (a *authorities) read(ctx context.Context) (changed bool, err error) {
	pem, err := guard.Bounded(ctx, a.path, func() ([]byte, error) { return guard.ReadFile(a.path, maxCA) })
	if err != nil {
		return false, fmt.Errorf("CA: %w", err)
	}
	if a.pool != nil && bytes.Equal(pem, a.pem) {
		return false, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return false, fmt.Errorf("no PEM certificate in CA file %s", a.path)
	}
	a.pem, a.pool = pem, pool
	return true, nil
}

// isUntrusted reports whether a handshake failed by the server's certificate: no one
// kind of error is that of another authority, which may also have expired.
func isUntrusted(err error) bool {
	var failed *tls.CertificateVerificationError
	return errors.As(err, &failed)
}

// suiteNumbers finds the suites of these names, all of them for none. A list
// has to be given in any case: the library leaves out of its own what has gone
// out of fashion.
func suiteNumbers(names []string) ([]uint16, error) {
	byName := map[string]uint16{}
	var all []uint16
	for _, s := range cipherSuites() {
		byName[s.Name] = s.ID
		all = append(all, s.ID)
	}
	if len(names) == 0 {
		return all, nil
	}
	var ids []uint16
	for _, n := range names {
		id, ok := byName[n]
		if !ok {
			return nil, fmt.Errorf("https check: cipher suite %q is not known (TLS_RSA_WITH_AES_128_GCM_SHA256, for example)", n)
		}
		ids = append(ids, id)
	}
	return ids, nil
}
