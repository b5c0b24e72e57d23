package admin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
)

// Sync shares connections with other directors.
type Sync interface {
	// Import takes what /proc/net/ip_vs_conn lists on a director that runs
	// kernel IPVS. Rejected are entries that mean nothing to this director; those
	// of reals that it does not have, or that are not up, wait for them.
	Import(r io.Reader) (taken, rejected int, err error)

	// Push sends every connection to directors that run kernel IPVS.
	Push(ctx context.Context) (sent int, err error)
}

// SyncResult is what became of connections that were imported or pushed.
type SyncResult struct {
	Done     int `json:"done"`
	Rejected int `json:"rejected"`
}

// importRequest is the body of a POST to /v1/sync/import.
type importRequest struct {
	List []byte `json:"list"` // as /proc/net/ip_vs_conn has it
}

var errNoSync = errors.New("kernel IPVS has the connections of this director: nothing of them can be shared by lvx (backend: auto or xdp)")

func (s *Server) importConnections(_ context.Context, q importRequest) (r SyncResult, err error) {
	if s.opt.Sync == nil {
		return r, errNoSync
	}
	r.Done, r.Rejected, err = s.opt.Sync.Import(bytes.NewReader(q.List))
	return r, err
}

func (s *Server) pushConnections(ctx context.Context, _ struct{}) (r SyncResult, err error) {
	if s.opt.Sync == nil {
		return r, errNoSync
	}
	r.Done, err = s.opt.Sync.Push(ctx)
	return r, err
}

// SyncImport has the daemon take the connections of a list.
func (c *Client) SyncImport(ctx context.Context, list []byte) (r SyncResult, err error) {
	return r, c.do(ctx, http.MethodPost, pathSyncImport, importRequest{list}, &r)
}

// SyncPush has the daemon send every connection to directors that run kernel
// IPVS.
func (c *Client) SyncPush(ctx context.Context) (r SyncResult, err error) {
	return r, c.do(ctx, http.MethodPost, pathSyncPush, struct{}{}, &r)
}
