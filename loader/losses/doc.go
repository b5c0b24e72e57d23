// Package losses counts frames that XDP handed to a driver and that were not
// sent: XDP_TX and XDP_REDIRECT report success before the driver has done its
// part, so that the verdicts of the packet path do not have them.
//
// It listens to the kernel's tracepoints xdp_exception, xdp_bulk_tx,
// xdp_redirect_err and xdp_devmap_xmit, of the interfaces of one network
// namespace. It does not say which frame was lost, and judges nothing; it cannot
// know of a frame that a driver drops in silence, or that is lost on the wire.
package losses
