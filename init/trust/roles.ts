/**
 * Roles of certificates, as extended key usages in an arc of our own (1.3.6.1.4.1.59999.1 is a placeholder that nobody was
 * assigned; an integrator with an own arc changes it here and in the CA's profile). A certificate without the role signs nothing
 * for us: a device's or a server's certificate under the same CA is no GuestOS signer. anyExtendedKeyUsage is no role.
 */
export const roles = {
  /** May sign GuestOS manifests. */
  guestosSigning: "1.3.6.1.4.1.59999.1.1",
} as const;

export type Role = keyof typeof roles;

/** For sentences. */
export const roleNames: Readonly<Record<Role, string>> = {
  guestosSigning: "GuestOS signing",
};
