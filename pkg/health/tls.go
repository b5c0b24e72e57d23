package health

import (
	"crypto/tls"
	"crypto/x509"
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
	if s.CA == "" {
		return cfg, nil
	}
	pem, err := guard.ReadFile(s.CA, maxCA)
	if err != nil {
		return nil, fmt.Errorf("https check: CA: %w", err)
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("https check: no PEM certificate in CA file %s", s.CA)
	}
	return cfg, nil
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
