package testenv

import (
	"fmt"
	"strings"

	"github.com/lvx-lb/lvx/testenv/web"
)

// ServeWeb runs a web server that says the host's name: HTTP on every
// address, HTTPS on those that end in ":443". Without addresses it is ":80".
// It runs until the cluster is closed.
func (h *Host) ServeWeb(addrs ...string) (*web.Server, error) {
	if len(addrs) == 0 {
		addrs = []string{":80"}
	}
	s, err := web.New(h.Name)
	if err != nil {
		return nil, err
	}
	h.own(s)
	for _, a := range addrs {
		l, err := h.Listen("tcp", a)
		if err != nil {
			return nil, fmt.Errorf("%s: web server on %s: %w", h.Name, a, err)
		}
		serve := s.Serve
		if strings.HasSuffix(a, ":443") {
			serve = s.ServeTLS
		}
		// It ends with the listener or the server, which the host closes: its
		// error says only that.
		go func() { _ = serve(l) }()
	}
	return s, nil
}
