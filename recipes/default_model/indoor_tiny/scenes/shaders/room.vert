#version 330

uniform mat4 model;
uniform mat4 view_projection;

in vec3 in_position;
in vec3 in_normal;
in vec2 in_uv;
in uint in_material;

out vec3 own_position;
out vec3 own_normal;
out vec3 place;
out vec3 normal;
out vec2 uv;
flat out uint material;

void main() {
    vec4 there = model * vec4(in_position, 1.0);
    own_position = in_position;
    own_normal = in_normal;
    place = there.xyz;
    normal = mat3(model) * in_normal;
    uv = in_uv;
    material = in_material;
    gl_Position = view_projection * there;
}
